from django.contrib import admin
from django.urls import include, path

from gateway_project.sign_in import views as sign_in

urlpatterns = [
    path("admin/oidc/begin/", sign_in.begin, name="oidc-begin"),
    path("admin/oidc/callback/", sign_in.callback, name="oidc-callback"),
    path("admin/", admin.site.urls),
    path("", include("chatgateway.urls")),
]
